"""The words of the page: what is compared, how, and what the figures do not say."""

from rig.stages.latency import KEPT_UP, LOAD_CPUS_FULL
from rig.verdicts import ELSEWHERE_MAX, NOISE_MAX, TOO_CLOSE

WHAT = ("tollgate looks up a team's credits in Redis before a start may pass. Here it is compared with a proxy that "
        "decides nothing (bare Pingora), and with the two things that an operator could put there instead: "
        "nginx with Lua and a pooled Redis client, and Envoy with an external authorizer.")

METHOD = (
    "All on one machine and in one run: the same upstream (nginx, a small JSON answer), the same Redis, the same start: "
    "a POST with a 65-byte JSON body on kept connections, 64 of them unless said otherwise. Each gateway has one thread.",
    "Where there are two CPUs or more, the gateway under test and its helpers have one for themselves; load generators, "
    "upstream and Redis share the rest.",
    "Short bursts, interleaved: each round has one burst of every kind, every other round runs backwards. Ratios are taken "
    "within a round, pair by pair, and then summed up, because neighbours in time share the noise of the machine.",
    "CPU per request: user and system time of all processes of a gateway by the kernel's count, over the requests answered. "
    "Envoy's includes its authorizer (nginx with Lua, the same check). All peers give the same 403, byte for byte in body "
    "and in the headers that count; this is compared before anything is measured.",
    "“Bare Pingora giving the same 403” answers every request from a prepared header and asks nobody: the least that a "
    "refusal can cost there. tollgate's refusals also write an event to Redis.",
    "Latency at a constant rate (oha, open loop): a start that should have been sent while others were waiting counts its "
    "wait. Other latencies are of a closed loop (wrk), where a slow answer delays the next question.",
    "Instructions: user instructions per request under callgrind, of an exact number of requests over kept connections, the "
    "median of some repetitions. They hardly depend on what else the machine does; the kernel's share is not in them.",
    "Memory: resident, of all processes of a gateway, each fresh: after some load, with 10,000 idle connections, in a burst of "
    "one more start on each (1,000 at once), and after they were closed.",
)

CAVEATS = (
    "Loopback: no network, no loss, no TLS but where said. A real network hides most of what differs here.",
    "The generator sends at a constant rate in steps of its timer, a millisecond: at 10,000 a second ten starts come at once. "
    "Tails include waiting behind those; they do so for all gateways alike.",
    "On few CPUs the generator, the upstream and Redis compete with each other; points where their CPUs were more than "
    f"{LOAD_CPUS_FULL:.0%} busy, or where less than {KEPT_UP:.0%} of the asked rate was reached, are drawn hollow.",
    "nginx and Envoy are configured as somebody would who knows them, without tricks that give up what tollgate promises. "
    "nginx writes no refusal events, and neither of them defends itself against ambiguous requests as tollgate does.",
    "Resident memory of several processes counts what they share more than once (nginx: master and worker).",
    "A figure of one machine. Ratios carry over to others better than microseconds do.",
)

VERDICTS = (
    "Met or missed: of a cost the lower quartile over the rounds counts (disturbance only ever adds), of latencies the median. "
    "Both are shown.",
    f"Undecided: within {TOO_CLOSE:.0%} of the limit, or quartile and median on different sides of it, and no count of "
    "instructions to decide; of instructions, repetitions on different sides. Run it again.",
    f"Too noisy: the yardstick itself varied by more than {NOISE_MAX:.0%} between its quartiles, or others had more than "
    f"{ELSEWHERE_MAX:.0%} of the CPUs. There is then no verdict, however good the figure looks.",
    "Not measured: with the reason beside it.",
    "One wrong answer (another status, another length, a refused start that reached the upstream, a socket error) makes the "
    "whole run invalid, and the page says so at its top.",
)

AGAIN = """make bench                        everything
make bench QUICK=1                a first look, under five minutes
make bench ROUNDS=15              for a busy machine
make bench ARGS="--only latency"  one part
See bench/README.md."""
