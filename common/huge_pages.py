"""Large memory of a process in pages of 2 MiB instead of 4 KiB, where the system has them.

What is allocated for a model's vector is filled once and given back. With small pages the kernel
takes longer to find them, one by one, than the vector takes to be copied.
"""

_VARIABLE, _VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
"""A tunable of glibc 2.35, by which malloc asks for huge pages; other libraries ignore it."""


def with_huge_pages(environment: dict[str, str]) -> dict[str, str]:
    """The environment for a process that holds vectors; a person's own tunables stay."""
    return {_VARIABLE: _VALUE} | environment
