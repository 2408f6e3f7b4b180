"""What a site allows, whatever a study asks."""
