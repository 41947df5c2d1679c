"""The configuration files of the OpenStack lab: from a folder and ports to texts.

Everything listens on loopback. Values that look like secrets guard nothing: whoever can reach the ports of this
computer's loopback is whoever runs the tests.
"""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["DATABASES", "HOST", "PASSWORD", "PORTS", "REGION", "database", "endpoints", "messages", "render"]

PASSWORD = "lab"
HOST = "lab"
"""Name of the one host."""
REGION = "RegionOne"
DATABASES = ("keystone", "glance", "placement", "nova_api", "nova_cell0", "nova", "neutron", "cinder")
PORTS = (
    "database",
    "messages",
    "distribution",
    "names",
    "identity",
    "image",
    "placement",
    "network",
    "compute",
    "volume",
)
"""``distribution`` and ``names`` are Erlang's, which RabbitMQ is written in."""


def database(ports: Mapping[str, int], name: str) -> str:
    """The URL of one of the `DATABASES`."""
    return f"mysql+pymysql://lab:{PASSWORD}@127.0.0.1:{ports['database']}/{name}"


def messages(ports: Mapping[str, int]) -> str:
    """The URL of the message queue."""
    return f"rabbit://guest:guest@127.0.0.1:{ports['messages']}//"


def endpoints(ports: Mapping[str, int]) -> dict[str, str]:
    """The URL of each service in the catalogue, by its type."""
    base = {kind: f"http://127.0.0.1:{ports[kind]}" for kind in ("image", "placement", "network")}
    return base | {
        "identity": f"http://127.0.0.1:{ports['identity']}/v3/",
        "compute": f"http://127.0.0.1:{ports['compute']}/v2.1",
        "volumev3": f"http://127.0.0.1:{ports['volume']}/v3/%(project_id)s",
    }


def render(folder: Path, ports: Mapping[str, int], defaults: Path) -> dict[str, str]:
    """Each file's text by its path below ``folder/etc``; ``defaults`` holds the pipelines shipped with the services."""
    texts = {
        "keystone/keystone.conf": _keystone(folder, ports),
        "glance/glance-api.conf": _glance(folder, ports),
        "placement/placement.conf": _placement(folder, ports),
        "nova/nova.conf": _nova(folder, ports),
        "nova/providers/gpus.yaml": _GPUS,
        "neutron/neutron.conf": _neutron(folder, ports),
        "cinder/cinder.conf": _cinder(folder, ports),
        "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{ports['messages']}\n",
        "plugins": "[].\n",
    }
    for pipeline in (
        "glance/glance-api-paste.ini",
        "nova/api-paste.ini",
        "neutron/api-paste.ini",
        "cinder/api-paste.ini",
    ):
        texts[pipeline] = (defaults / pipeline).read_text()
    return texts


# What the one host has beyond CPUs and memory: four H100, as an operator describes them to nova.
_GPUS = """\
meta:
  schema_version: '1.0'
providers:
  - identification:
      uuid: $COMPUTE_NODE
    inventories:
      additional:
        - CUSTOM_GPU_NVIDIA_H100:
            total: 4
            reserved: 0
            min_unit: 1
            max_unit: 4
            step_size: 1
            allocation_ratio: 1.0
    traits:
      additional:
        - CUSTOM_NVIDIA_H100
"""


def _service_account(ports: Mapping[str, int]) -> str:
    return f"""\
auth_type = password
auth_url = {endpoints(ports)["identity"]}
username = service
password = {PASSWORD}
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = {REGION}
"""


def _locks(folder: Path) -> str:
    return f"[oslo_concurrency]\nlock_path = {folder}/locks\n"


def _keystone(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
[database]
connection = {database(ports, "keystone")}
[token]
provider = fernet
[fernet_tokens]
key_repository = {folder}/state/fernet
[credential]
key_repository = {folder}/state/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
"""


def _glance(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
[DEFAULT]
enabled_backends = files:file
workers = 1
enabled_import_methods = []
[database]
connection = {database(ports, "glance")}
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {folder}/state/images
[keystone_authtoken]
{_service_account(ports)}
[paste_deploy]
flavor = keystone
config_file = {folder}/etc/glance/glance-api-paste.ini
{_locks(folder)}
"""


def _placement(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
[api]
auth_strategy = keystone
[placement_database]
connection = {database(ports, "placement")}
[keystone_authtoken]
{_service_account(ports)}
"""


def _nova(folder: Path, ports: Mapping[str, int]) -> str:
    account = _service_account(ports)
    # The hypervisor boots nothing, so nobody tells nova that a network card was plugged: it does not wait for that.
    return f"""\
[DEFAULT]
transport_url = {messages(ports)}
my_ip = 127.0.0.1
host = {HOST}
compute_driver = fake.FakeDriver
state_path = {folder}/state/nova
enabled_apis = osapi_compute
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
report_interval = 5
heal_instance_info_cache_interval = -1
sync_power_state_interval = -1
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = {folder}/etc/nova/api-paste.ini
[api_database]
connection = {database(ports, "nova_api")}
[database]
connection = {database(ports, "nova")}
[keystone_authtoken]
{account}
[service_user]
send_service_user_token = true
{account}
[placement]
{account}
[neutron]
{account}
[cinder]
{account}
[glance]
api_servers = {endpoints(ports)["image"]}
[compute]
provider_config_location = {folder}/etc/nova/providers
[scheduler]
workers = 1
[conductor]
workers = 1
[vnc]
enabled = false
{_locks(folder)}
"""


def _neutron(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
[DEFAULT]
transport_url = {messages(ports)}
core_plugin = ml2
service_plugins = router
auth_strategy = keystone
api_paste_config = {folder}/etc/neutron/api-paste.ini
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
rpc_workers = 0
state_path = {folder}/state/neutron
[database]
connection = {database(ports, "neutron")}
[keystone_authtoken]
{_service_account(ports)}
[ml2]
type_drivers = local,flat,vlan
tenant_network_types = local
mechanism_drivers = gridcloud_lab
extension_drivers = port_security
{_locks(folder)}
"""


def _cinder(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
[DEFAULT]
transport_url = {messages(ports)}
host = {HOST}
my_ip = 127.0.0.1
auth_strategy = keystone
api_paste_config = {folder}/etc/cinder/api-paste.ini
state_path = {folder}/state/cinder
enabled_backends = lab
glance_api_servers = {endpoints(ports)["image"]}
report_interval = 5
[lab]
volume_driver = gridcloud_lab_volumes.KeepNothing
volume_backend_name = lab
[database]
connection = {database(ports, "cinder")}
[keystone_authtoken]
www_authenticate_uri = {endpoints(ports)["identity"]}
{_service_account(ports)}
[coordination]
backend_url = file://{folder}/locks
{_locks(folder)}
"""
