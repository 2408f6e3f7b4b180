"""The way to the server: outbound HTTPS, its certificate, proxies, waiting."""
