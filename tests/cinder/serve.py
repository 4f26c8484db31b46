"""Cinder's API, scheduler and volume service in one process, which needs no message broker.

    serve.py CONFIG

The three talk by oslo.messaging's driver for tests (`transport_url = fake:/`), which ends at the process. Ends with its standard input,
and so with the process that holds the other end, however that ends.
"""

from cinder import monkey_patch

monkey_patch.patch()  # before anything imports what eventlet replaces

import os
import sys

from eventlet import hubs
from oslo_config import cfg
from oslo_log import log

import cinder.cmd.volume  # noqa: F401, registers the options of a backend
import cinder.privsep
import os_brick
import os_brick.privileged
from cinder import coordination, objects, rpc, service, version
from cinder.common import config

CONF = cfg.CONF


def main():
    objects.register_all()
    CONF(['--config-file', sys.argv[1]], project='cinder', version=version.version_string())
    config.set_middleware_defaults()
    log.setup(CONF, 'cinder')
    coordination.COORDINATOR.start()
    rpc.init(CONF)
    os_brick.setup(CONF)

    if os.geteuid() == 0:
        # What a helper would do as root, this process does itself.
        cinder.privsep.sys_admin_pctxt.set_client_mode(False)
        os_brick.privileged.default.set_client_mode(False)
    for backend in CONF.enabled_backends:
        host = '%s@%s' % (CONF.host, backend)
        service.Service.create(host=host, service_name=backend, binary='cinder-volume', coordination=False).start()
    service.Service.create(binary='cinder-scheduler').start()
    service.WSGIService('osapi_volume').start()
    # What serves are green threads: waiting for the API's service would return at once, and a blocking read would stop them all.
    while True:
        hubs.trampoline(0, read=True)
        if not os.read(0, 4096):
            os._exit(0)


if __name__ == '__main__':
    main()
