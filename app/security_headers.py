"""Headers of every answer, for what browsers might do with it."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    # Answers are about persons, or about now.
    (b"cache-control", b"no-store"),
)
"""As ASGI takes them."""
