"""The running of commands: errors, command lines, worker pools, sharding, signals, progress.

Importing these modules does not load torch, so that commands that need none start quickly.
"""
