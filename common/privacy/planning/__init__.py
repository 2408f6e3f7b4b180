"""Plans a study's privacy before it runs: the noise, epsilon, and what they mean."""
