"""One run on one daemon: its folder and log, its worker, the member and leader roles, submission, hosting."""
