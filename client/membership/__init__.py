"""From an empty folder to a member of a consortium."""
