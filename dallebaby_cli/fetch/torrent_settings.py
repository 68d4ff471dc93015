"""How the BitTorrent session is set up: what differs from libtorrent's defaults, and why.

What each of them gave is in LOG.md; `python benchmarks/fetch.py --try NAME=VALUE` measures another.
"""

from typing import Any

from dallebaby_cli import __version__
from dallebaby_cli.config import FetchConfig


def settings(config: FetchConfig) -> dict[str, Any]:
    """libtorrent's settings for one download."""
    return {
        "user_agent": f"dallebaby/{__version__}",
        "listen_interfaces": config.listen,
        "enable_dht": config.dht,
        "announce_to_all_tiers": True,  # a tracker that answers may know nobody who has it
        "enable_lsd": config.local_discovery,
        "enable_upnp": False,  # opening the router's ports is for its owner to decide
        "enable_natpmp": False,
        "download_rate_limit": int(config.max_down_mb_s * 1e6),
        "upload_rate_limit": int(config.max_up_mb_s * 1e6),
        "ignore_limits_on_local_network": False,  # a limit is a limit
        "allow_multiple_connections_per_ip": True,  # a campus of seeds may share one address
        "max_queued_disk_bytes": 16_000_000,  # more takes memory and gives no speed
        "tick_interval": 100,  # ms; new peers are connected to at the next tick
        "enable_outgoing_utp": False,  # libtorrent tries it first and long; see Swarm._seek
        "min_reconnect_time": 5,  # s, once more for each failure; a seed may come back
        "max_failcount": 20,
        "stop_tracker_timeout": 1,  # nobody waits for a tracker to say goodbye
    }
