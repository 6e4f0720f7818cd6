"""The daemon of a volunteer: network, rounds, blobs, runs, workers, gateway, `forge-peer`. Pure: empty."""
