"""What a run will need, before anything is spent: memory by ZeRO stage, host memory, disk, time and price."""
