"""What Cinder's driver for the kernel's NVMe target takes from nvmetcli's library: on PyPI and in Debian 12 there is none.

Everything is configfs below (Documentation/nvme, drivers/nvme/target/configfs.c); an object is its directory.
"""

import os

from . import nvme

ROOT = '/sys/kernel/config/nvmet'


def _write(path, value):
    with open(path, 'w') as file:
        file.write(str(value))


class _Node:
    def __init__(self, path, mode):
        self.path = path
        if mode == 'lookup':
            if not os.path.isdir(path):
                raise nvme.CFSNotFound(path)
        else:
            os.mkdir(path)

    def get_attr(self, group, name):
        with open('%s/%s_%s' % (self.path, group, name)) as file:
            return file.read().strip()

    def set_attr(self, group, name, value):
        _write('%s/%s_%s' % (self.path, group, name), value)

    def set_all(self, group, wanted):
        for name, value in wanted[group].items():
            self.set_attr(group, name, value)


class Root(_Node):
    def __init__(self):
        super().__init__(ROOT, 'lookup')

    @property
    def subsystems(self):
        return [Subsystem(nqn) for nqn in os.listdir(ROOT + '/subsystems')]


class Subsystem(_Node):
    def __init__(self, nqn=None, mode='lookup'):
        self.nqn = nqn
        super().__init__('%s/subsystems/%s' % (ROOT, nqn), mode)

    @property
    def namespaces(self):
        return [Namespace(self, nsid) for nsid in os.listdir(self.path + '/namespaces')]

    @classmethod
    def setup(cls, wanted, err_func=None):
        subsystem = Subsystem(wanted['nqn'], 'create')
        subsystem.set_all('attr', wanted)
        for namespace in wanted['namespaces']:
            Namespace.setup(subsystem, namespace, err_func)

    def delete(self):
        for namespace in self.namespaces:
            namespace.delete()
        os.rmdir(self.path)


class Namespace(_Node):
    MAX_NSID = 8192

    def __init__(self, subsystem, nsid=None, mode='lookup'):
        self.subsystem = subsystem
        self.nsid = int(nsid)
        super().__init__('%s/namespaces/%d' % (subsystem.path, self.nsid), mode)

    @classmethod
    def setup(cls, subsystem, wanted, err_func=None):
        namespace = Namespace(subsystem, wanted['nsid'], 'create')
        namespace.set_all('device', wanted)
        _write(namespace.path + '/enable', wanted['enable'])

    def delete(self):
        _write(self.path + '/enable', 0)
        os.rmdir(self.path)


class Port(_Node):
    def __init__(self, portid, mode='lookup'):
        self.portid = int(portid)
        super().__init__('%s/ports/%d' % (ROOT, self.portid), mode)

    @property
    def subsystems(self):
        return os.listdir(self.path + '/subsystems')

    def add_subsystem(self, nqn):
        os.symlink('%s/subsystems/%s' % (ROOT, nqn), '%s/subsystems/%s' % (self.path, nqn))

    def remove_subsystem(self, nqn):
        os.unlink('%s/subsystems/%s' % (self.path, nqn))

    @classmethod
    def setup(cls, wanted, err_func=None):
        port = Port(wanted['portid'], 'create')
        port.set_all('addr', wanted)
        for nqn in wanted['subsystems']:
            port.add_subsystem(nqn)


class Host:
    """Cinder lets any host in."""


class Referral:
    """Cinder makes none."""


class ANAGroup:
    """Cinder makes none."""
