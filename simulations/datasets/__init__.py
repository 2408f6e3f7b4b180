"""Public data sets of cells: downloaded, checked, unpacked, indexed."""
