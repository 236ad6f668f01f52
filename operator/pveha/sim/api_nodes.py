"""Calls about one node: status, reboot and shutdown."""

from pveha.sim import api_call, api_cluster, views

KERNEL = "6.18.44-2-pve"


async def version(call: api_call.Call) -> object:
    return api_cluster.about_version(call.world.machines[call.node].version)


async def status(call: api_call.Call) -> object:
    on = call.world.machines[call.node]
    memory, used = on.about.memory, views.used_memory(call.world, call.node)
    disk = api_cluster.DISK
    build = "#1 SMP PREEMPT_DYNAMIC"
    return {
        "uptime": int(on.uptime),
        "cpu": 0.05,
        "wait": 0,
        "idle": 0,
        "loadavg": ["0.50", "0.40", "0.30"],
        "memory": {"total": memory, "used": used, "free": memory - used, "available": memory - used},
        "swap": {"total": 0, "used": 0, "free": 0},
        "rootfs": {"total": disk, "used": disk // 10, "free": disk - disk // 10, "avail": disk - disk // 10},
        "ksm": {"shared": 0},
        "cpuinfo": {
            "model": "Simulated CPU",
            "vendor": "GenuineIntel",
            "family": "6",
            "sockets": 1,
            "cores": on.about.cpus,
            "cpus": on.about.cpus,
            "mhz": "2600.000",
            "flags": call.world.equipment.flags(call.node),
            "hvm": "1",
            "user_hz": 100,
        },
        "pveversion": f"pve-manager/{on.version}/{api_cluster.VERSION['repoid']}",
        "kversion": f"Linux {KERNEL} {build}",
        "current-kernel": {"sysname": "Linux", "release": KERNEL, "version": build, "machine": "x86_64"},
        "boot-info": {"mode": "efi", "secureboot": 0},
    }


async def command(call: api_call.Call) -> object:
    """An orderly reboot or shutdown of the node."""
    if call.text("command") == "reboot":
        call.world.reboot(call.node)
    else:
        call.world.shutdown(call.node)
    return None
