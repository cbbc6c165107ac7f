"""HTTP only: authenticate, parse, call a service, frame the answer."""
