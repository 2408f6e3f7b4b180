"""What a site does so that its sum is seen only within the sum of many (mode distributed)."""
