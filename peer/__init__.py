"""The daemon of a volunteer: network, rounds, blobs, runs, workers, gateway and the `forge-peer` command. Pure: empty."""
