"""The fault matrix: everything that can go wrong with a device, a line or a host, done to real ones.

Each case is held to the same four sentences: no round outlasts its deadline, no fault changes another
device's contribution, no committed round is lost, and every fault is named in the log and in the report.
"""
