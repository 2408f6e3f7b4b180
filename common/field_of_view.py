"""How wide cells and pictures of one cell are, and how much of it a model sees, in micrometres."""

CELL_UM = (3.0, 40.0)
"""From less than the smallest of the cell types to more than the largest."""
OF_A_CELL = 2.0
"""A picture of a cell is about so many times as wide: MLL23's 25 um around cells of 8 to 20."""
FIELD_UM = 25.0
"""What the models see around a cell's middle unless a study says otherwise: MLL23's."""
PICTURE_UM = (CELL_UM[0] * OF_A_CELL, CELL_UM[1] * OF_A_CELL)
