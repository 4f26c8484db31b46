"""The error of an object that configfs does not have."""


class CFSNotFound(Exception):
    pass
