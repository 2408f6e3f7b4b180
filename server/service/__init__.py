"""The aggregator as one service: its processes, and what is known of them."""
