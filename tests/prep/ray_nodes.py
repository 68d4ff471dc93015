"""A Ray cluster of two nodes on this machine, for test_cluster.py: prints its address; kills the
second node, with all that runs on it, when a line comes in; ends when the input does."""

import sys

from ray.cluster_utils import Cluster

each = {"num_cpus": 1, "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args=each | {"include_dashboard": False})
try:
    second = cluster.add_node(**each)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    if sys.stdin.readline():
        cluster.remove_node(second, allow_graceful=False)
        print("gone", flush=True)
        sys.stdin.read()
finally:
    cluster.shutdown()
