"""The command `forge-peer`."""
