"""The main job, shown: three daemons, a late joiner, a kill, a forged ledger."""
