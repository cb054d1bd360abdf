"""The names, in messages, of the settings that choose a network and its weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SettingNames:
    """The names of a command's settings, as its user writes them."""

    # of the weights that a training starts from
    weights: str
    # of the network
    backbone: str
    # what stands between a name and its value
    between: str

    @property
    def fix(self) -> str:
        """The end of a message about weights that are of another network."""
        return f'check {self.weights} and {self.backbone}'

    def weights_are(self, value: str) -> str:
        """The weights as a user asks for them, e.g. '--weights wheel'."""
        return f'{self.weights}{self.between}{value}'

    def backbone_is(self, value: str) -> str:
        """The network as a user asks for it, e.g. '--backbone resnet50'."""
        return f'{self.backbone}{self.between}{value if value.strip() else repr(value)}'


# of the stage scripts
FLAGS = SettingNames('--weights', '--backbone', ' ')
# of DeepLab's config
CONFIG_KEYS = SettingNames('MODEL_BACKBONE_PRETRAIN', 'MODEL_BACKBONE', ' = ')
