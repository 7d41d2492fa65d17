"""Run one program and write its exit status, peak memory, elapsed time and processor time to a file.

Started with `-I -S` and kept to modules that the interpreter has loaded anyway: on Linux a child's recorded peak
includes what its parent held at the moment of the fork, so whoever measures small programs has to be smaller.

Usage: _launcher.py FIGURES_FILE PROGRAM ARGUMENT...
"""

import os
import sys
import time

if __name__ == "__main__":
    began_ns = time.perf_counter_ns()
    child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
    _, status, usage = os.wait4(child, 0)
    elapsed_ns = time.perf_counter_ns() - began_ns
    with open(sys.argv[1], "w", encoding="ascii") as figures:
        cpu_s = usage.ru_utime + usage.ru_stime
        figures.write(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss} {elapsed_ns} {cpu_s}\n")
