"""What the MultipleSpawner's paper and the thesis print of its two files, to the letter where it can be read."""

from __future__ import annotations

import json

__all__ = ["LISTING_1", "LISTING_2", "LISTING_2_UNREADABLE", "THESIS", "THREE_TYPES"]

LISTING_1 = (
    '{"virtual_machine": [{"name": "oracle_linux_7_8", "provider": "oci", "image": "Oracle Linux 7.8"}]}'
)

LISTING_2 = """
[
  {
    "name": "VirtualMachine Spawner",
    "resource_type ": "virtual_machine",
    "providers ": ["oci"],
    "spawner": {
      " class ": "sshspawner.sshspawner.SSHSpawner",
      "kwargs": {
        "remote_hosts": ["{endpoint}"],
        "remote_port": "22",
        "ssh_keyfile": "~/.corc/ssh/id_rsa",
        "remote_port_command ": "/usr/bin/python3
        /usr/local/bin/get_port.py"
      }
    },
    "configurer": {
      " class ": " corc.configurer.AnsibleConfigurer ",
      "options": {
        "host_variables": {
          "ansible_user": "opc",
          "ansible_become ": "yes",
          "ansible_become_method ": "sudo",
          "new_username": "{JUPYTERHUB_USER}"
        },
        "host_settings ": {"group": "compute", "port": "22"},
        "apply kwargs": {"playbook_path": "setup_ssh_spawner.yml"}
      }
    },
    "authenticator": {
      " class ": " corc.authenticator.SSHAuthenticator ",
      "kwargs": {"create_certificate": "True"}
    }
  },
]
"""
"""As it is printed: with spaces in its keys, a broken line and a comma too many."""

THREE_TYPES = json.dumps(
    {
        "container": [{"name": "python_notebook", "image": "nielsbohr/python-notebook"}],
        "virtual_machine": [{"name": "oracle_linux_7_8", "provider": "oci", "image": "Oracle Linux 7.8"}],
        "bare_metal": [{"name": "local_machine", "provider": "local"}],
    }
)
"""The thesis's deployment file: the three types of resource."""

THESIS = """
[
{
        "name": "VirtualMachine Spawner",
        "resource_type": "virtual_machine",
        "providers": ["oci"],
        "spawner": {
            "class": "cloudsshspawner.cloudsshspawner.CloudSSHSpawner",
            "kwargs": {
                # CloudSSHSpawner Kwargs
            }
        },
        "configurer": {
            "class": "corc.configurer.AnsibleConfigurer",
            "options": {
                "host variables": {
                     "ansible_user": "opc",
                     "ansible_become": "yes",
                     "ansible become method": "sudo",
                     "users": [{
                         "name": "{JUPYTERHUB_USER}",
                         "auth_key": "{auth_key}",
                         "sudoer": "yes"
                     }],
                     "jupyterhub": {
                         "server_public_ip": "{server_public_ip}",
                         "server_host_key": "{server_host_key}"
                     }
                },
                "host_settings": {
                     "group": "compute",
                     "port": "22"
                },
                "apply_kwargs": {
                     "playbook_paths": [
                         "~/.multiplespawner/playbooks/prep_environment.yml",
                         "~/.multiplespawner/playbooks/change_user.yml"
                     ]
                }
            }
        },
        "authenticator": {
            "class": "corc.authenticator.SSHAuthenticator",
            "kwargs": {
                "create certificate": "True",
                "key name": "{JUPYTERHUB_USER}_id_rsa",
                "load_existing": "True"}
        }
    }
]
"""
"""The thesis's template file, with a comment in it and keys whose underscores are not printed."""

LISTING_2_UNREADABLE = LISTING_2.replace('["{endpoint}"]', '[{"endpoint}]')
"""The paper's listing as the paper itself has it, where the thesis has mended it: with a quote in the wrong place."""
