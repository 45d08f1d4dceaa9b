"""What is measured, in parts that also run alone: `--only NAME`.

Each part has `run(rig)`, which adds to the rig's results, and `seconds(options)`,
about how long that takes.
"""

from rig.stages import extras, holds, instructions, latency, memory, proxying, scale, storm, threads

# What a quick run leaves out: it has no target.
NOT_QUICK = ("holds",)
# In this order: what is judged by time comes first, while the machine is as it
# was found; what leaves thousands of closed sockets behind comes late.
ALL = {
    "proxying": proxying,
    "latency": latency,
    "scale": scale,
    "threads": threads,
    "extras": extras,
    "instructions": instructions,
    "holds": holds,
    "storm": storm,
    "memory": memory,
}
