"""The promises of `sessionstore`, by number.

The one list from which the verdict table and the contract page are made. A test names the promise it checks with
`@pytest.mark.promise("SNAP1")`, a mutant the promise it breaks. Says what is promised, not how it is kept or checked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One numbered promise: `id` as tests name it, `title` in a few words, `text` as one sentence."""

    id: str
    title: str
    text: str


PROMISES: tuple[Promise, ...] = (
    Promise(
        "SET1",
        "object cache limit from the environment",
        "OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES takes an optionally signed run of ASCII digits from 0 to 2^53-1, "
        "surrounding white space ignored; 0 switches the object cache off, and anything else means 1,000,000 and "
        "one logged warning per process.",
    ),
    Promise(
        "SET2",
        "cache lifetime from the environment",
        "OPENCLAW_SESSION_CACHE_TTL_MS follows the same grammar with 45,000 as its default, and 0 switches both "
        "caches off.",
    ),
    Promise(
        "SET3",
        "byte budget for serialized snapshots from the environment",
        "OPENCLAW_SESSION_SERIALIZED_CACHE_MAX_BYTES follows the same grammar with 64 MiB as its default, and "
        "covers all paths of a process together.",
    ),
    Promise(
        "SET4",
        "when settings are read",
        "The environment is looked at afresh by every operation, unless the store was given Settings, which win.",
    ),
    Promise(
        "CACHE1",
        "large files are never kept parsed",
        "Neither load nor save nor update keeps a file parsed whose size in bytes is above the limit; a file of "
        "exactly the limit is kept.",
    ),
    Promise(
        "CACHE2",
        "crossing the limit drops what was kept",
        "Once an operation learns that a file is above the limit, because the file grew or the limit fell, "
        "nothing parsed is held for it any more.",
    ),
    Promise(
        "CACHE3",
        "no bytes held for oversized files",
        "Between operations the store holds no bytes of an oversized file: its identity, its digest and, if they "
        "fit the limit that they count against, the positions of its entries.",
    ),
    Promise(
        "CACHE4",
        "lifetime of what is cached",
        "Nothing older than the lifetime is served (exactly that old still is), hits do not prolong it, clock "
        "changes do not matter, and any operation frees what has expired for every path.",
    ),
    Promise(
        "CACHE5",
        "bounds over all paths",
        "At most 64 paths and the byte limits are kept, the least recently used leave first, and the byte count "
        "reported equals what is held after every operation.",
    ),
    Promise(
        "CACHE6",
        "freshness",
        "A cached load returns content that the file had at some moment during the call, whoever wrote it and by "
        "whatever means, with coarse, equal or restored timestamps and reused inode numbers.",
    ),
    Promise(
        "CACHE7",
        "no aliasing",
        "Editing an object that a call returned or was given changes no cache, no snapshot, no other caller's "
        "object and nothing written later.",
    ),
    Promise(
        "CACHE8",
        "one file, however it is spelled",
        "Relative and absolute paths, `..` and symbolic links to one file lead to one cache record, one lock and "
        "one warning.",
    ),
    Promise(
        "CACHE9",
        "no cache ahead of the file",
        "After a write that failed or was interrupted no cache claims content that the file does not have.",
    ),
    Promise(
        "WARN1",
        "one warning for a large store",
        "The first operation that finds a file too large for the object cache logs so at WARNING with path, size, "
        "limit and the variable to change, once per file and process, also when threads race; never for small "
        "files or disabled caches.",
    ),
    Promise(
        "SNAP1",
        "an old base overwrites nothing",
        "An update that starts from a base keeps every change that reached the file after that base was loaded.",
    ),
    Promise(
        "SNAP2",
        "reuse is proven by bytes under the lock",
        "A base is reused only while the write lock is held and only when the file's bytes, or for an oversized "
        "file their digest, equal the base's.",
    ),
    Promise(
        "SNAP3",
        "a base changes the cost, never the outcome",
        "With or without a base an update leaves the same file, result and caches, and edits of a base in memory "
        "never reach the file.",
    ),
    Promise(
        "SNAP4",
        "an unchanged file is not parsed",
        "An update whose base still matches parses nothing, also when the file is oversized and along a chain of "
        "updates that each start from the snapshot before.",
    ),
    Promise(
        "SNAP5",
        "a changed file is read again",
        "When the file differs from the base, the mutator sees the file's content, not the base's.",
    ),
    Promise(
        "SNAP6",
        "a mutator that raises leaves no trace",
        "After a mutator raised, the file, the caches and all snapshots are as before and the lock is free.",
    ),
    Promise(
        "WRITE1",
        "updates are linearizable",
        "Concurrent updates from any number of processes, threads and tasks act as if done one after another in "
        "an order that real time allows; none that was acknowledged is lost.",
    ),
    Promise(
        "WRITE2",
        "readers see whole states",
        "A reader without the lock finds one published state, never a mixture of two and never no file.",
    ),
    Promise(
        "WRITE3",
        "durable when it returns",
        "What a returned call wrote survives power loss, even the first save into a new directory; a crash before "
        "that leaves the old or the new content.",
    ),
    Promise(
        "WRITE4",
        "killed at any instant",
        "SIGKILL leaves the old or the new content and the lock free; a later writer sweeps stray temporary files "
        "and never one that a live writer uses.",
    ),
    Promise(
        "WRITE5",
        "failing system calls",
        "When any system call fails, the error is raised, a whole state is on disk, no temporary file stays, "
        "caches agree and the lock is free; a failure after the rename is reported as an unknown outcome.",
    ),
    Promise(
        "WRITE6",
        "no change, no write",
        "An update that changes nothing leaves the file untouched, judged by the bytes on disk under the lock and "
        "never by what is remembered.",
    ),
    Promise(
        "WRITE7",
        "untouched entries keep their bytes",
        "A write leaves the bytes of entries it does not change exactly as they were, whatever numbers, escapes, "
        "order or unknown fields they hold.",
    ),
    Promise(
        "WRITE8",
        "mode, owner and symbolic link",
        "An existing file keeps mode and owner, a new one is 0600, and a symbolic link to the store stays one.",
    ),
    Promise(
        "WRITE9",
        "layout on disk",
        "Files are written as JSON indented by two spaces without a final newline; any valid layout is read.",
    ),
    Promise(
        "LOCK1",
        "one writer at a time",
        "Writers of one file exclude each other across threads and processes through an advisory lock on "
        "`<file>.flock`, which filelock.FileLock shares and nobody unlinks; `<file>.lock` is left to its owner.",
    ),
    Promise(
        "LOCK2",
        "never stolen, never skipped",
        "The kernel frees the lock of a dead holder and nothing else does; after the timeout LockTimeoutError is "
        "raised and nothing is written.",
    ),
    Promise(
        "LOCK3",
        "fair",
        "Waiting writers get the lock close to first come, first served: none starves.",
    ),
    Promise(
        "LOCK4",
        "nesting and forks",
        "An update inside an update of the same file in one thread or task raises at once, and a forked child "
        "neither holds, frees nor waits for its parent's lock.",
    ),
    Promise(
        "LOCK5",
        "signals",
        "A signal or KeyboardInterrupt anywhere leaves the lock free and the file whole.",
    ),
    Promise(
        "READ1",
        "only a missing file is empty",
        "A missing file reads as an empty store; every other failure to read is raised.",
    ),
    Promise(
        "READ2",
        "corrupt files are refused and kept",
        "A file that is not a UTF-8 JSON object of objects raises CorruptStoreError from every operation and is "
        "not overwritten until the operator asks for a repair, which first copies it aside.",
    ),
    Promise(
        "READ3",
        "strict JSON",
        "One leading byte order mark is accepted; duplicate keys, NaN and infinities are refused with a clear message.",
    ),
    Promise(
        "READ4",
        "what cannot be stored is refused early",
        "A value that JSON cannot carry is refused before anything is written, with the session key and the path "
        "inside the entry.",
    ),
    Promise(
        "KEY1",
        "one session, however its key is spelled",
        "Keys are looked up trimmed and in lower case, the newest of several spellings wins, and a write folds "
        "them into one.",
    ),
    Promise(
        "MAINT1",
        "maintenance on write",
        "Writes prune old entries, cap their number and back up large files as configured; mode warn only logs, "
        "the active session is never evicted, and entries without updatedAt are never pruned.",
    ),
    Promise(
        "MAINT2",
        "backups are copies",
        "A backup is a durable copy of which the newest three are kept, and the live file is there all the time.",
    ),
    Promise(
        "CLI1",
        "commands and exit codes",
        "Every subcommand prints results on stdout and progress on stderr, exits 0 when all is well, 1 for a "
        "problem of the store and 2 for wrong usage, and is plain without a terminal or with NO_COLOR.",
    ),
    Promise(
        "CLI2",
        "stress table",
        "`sessionstore stress` runs load and update cycles on a store of the wanted size and prints memory, size "
        "and time per sampled cycle.",
    ),
    Promise(
        "CLI3",
        "light status",
        "`sessionstore status --json` imports no test, report or terminal library and stays near a bare "
        "interpreter in start time and memory.",
    ),
)
