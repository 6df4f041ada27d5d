"""Kernels in C that torch lacks, built by the machine's own compiler when they are first needed."""
