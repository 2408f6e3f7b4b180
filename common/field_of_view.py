"""Widths, in micrometres: of cells, of pictures of one cell, and of what a model sees of them."""

CELL_UM = (3.0, 40.0)
"""Widths of cells: from below the smallest of the cell types to above the largest."""
OF_A_CELL = 2.0
"""A picture of a cell is about this many times as wide as the cell: MLL23's pictures are 25 um wide
and its cells 8 to 20."""
FIELD_UM = 25.0
"""Width of the field around a cell's middle that models see unless a study says otherwise: that of
MLL23's pictures."""
PICTURE_UM = (CELL_UM[0] * OF_A_CELL, CELL_UM[1] * OF_A_CELL)
"""Widths that a picture of one cell may have."""
