"""A volume driver for tests: sparse files of a local directory, handed out as files of an SMB share.

Cinder itself has no SMB driver any more; the connection info is that of the driver which it had. A file NAME.connect or NAME.extend
beside a volume has the storage fail at that.
"""

import os

from oslo_config import cfg

from cinder import exception, interface
from cinder.volume import configuration, driver

OPTIONS = [
    cfg.StrOpt('smb_export', help='the share as clients reach it'),
    cfg.StrOpt('smb_directory', help='where its files lie on this host'),
    cfg.StrOpt('smb_mount_options', help="what clients mount it with, in mount.cifs' words"),
]
cfg.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)


@interface.volumedriver
class SmbDriver(driver.VolumeDriver):
    VERSION = '1.0'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)

    @classmethod
    def get_driver_options(cls):
        return OPTIONS

    def _path(self, volume):
        return os.path.join(self.configuration.smb_directory, volume.name)

    def _fail_if_told(self, volume, action):
        if os.path.exists('%s.%s' % (self._path(volume), action)):
            raise exception.VolumeDriverException(message='the storage fails to %s' % action)

    def check_for_setup_error(self):
        if not os.path.isdir(self.configuration.smb_directory):
            raise RuntimeError('smb_directory is no directory: %s' % self.configuration.smb_directory)

    def create_volume(self, volume):
        with open(self._path(volume), 'wb') as file:
            file.truncate(volume.size << 30)
        return {'provider_location': self.configuration.smb_export}

    def delete_volume(self, volume):
        try:
            os.unlink(self._path(volume))
        except FileNotFoundError:
            pass

    def extend_volume(self, volume, new_size):
        self._fail_if_told(volume, 'extend')
        os.truncate(self._path(volume), new_size << 30)

    def ensure_export(self, context, volume):
        pass

    def create_export(self, context, volume, connector):
        pass

    def remove_export(self, context, volume):
        pass

    def initialize_connection(self, volume, connector):
        self._fail_if_told(volume, 'connect')
        return {
            'driver_volume_type': 'smbfs',
            'data': {
                'export': self.configuration.smb_export,
                'name': volume.name,
                'format': 'raw',
                'options': self.configuration.smb_mount_options,
            },
        }

    def terminate_connection(self, volume, connector, **kwargs):
        pass

    # The interface wants these; no test calls them.
    def create_volume_from_snapshot(self, volume, snapshot):
        raise NotImplementedError

    def create_cloned_volume(self, volume, src_vref):
        raise NotImplementedError

    def create_snapshot(self, snapshot):
        raise NotImplementedError

    def delete_snapshot(self, snapshot):
        raise NotImplementedError

    def copy_image_to_volume(self, context, volume, image_service, image_id, disable_sparse=False):
        raise NotImplementedError

    def copy_volume_to_image(self, context, volume, image_service, image_meta):
        raise NotImplementedError

    def _update_volume_stats(self):
        self._stats = {
            'volume_backend_name': self.configuration.volume_backend_name,
            'vendor_name': 'volattach',
            'driver_version': self.VERSION,
            'storage_protocol': 'smbfs',
            'total_capacity_gb': 1000,
            'free_capacity_gb': 1000,
            'multiattach': True,
            'online_extend_support': True,
        }
