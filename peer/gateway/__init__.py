"""The daemon's HTTP interface: FastAPI on a unix socket that only this user may open."""
