"""What a study's privacy costs and brings, before anything runs."""
