"""Filters of system calls: moby's default profile, and root feigned for a container with a single id.

``profile`` says what is allowed, ``bpf`` makes programs of such rules, ``syscall_numbers`` knows the machines, and
``filters`` joins the three. ``_linux.syscalls.seccomp`` hands a program to the kernel. The kernel's side of it:
seccomp(2), and ``Documentation/userspace-api/seccomp_filter.rst``.
"""
