"""The way to the server: outbound HTTPS, the server's certificate, proxies, waiting."""
