"""Races of real processes on one store, and the same programs in simulation and controlled runs."""
