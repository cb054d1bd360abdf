"""DeepLab v2 over ResNet-101 on pseudo masks of the EPS baseline. Set DATA_PSEUDO_GT and
MODEL_BACKBONE_PRETRAIN.

A key that is not given here has the default of segmentation/lib/utils/keys.py, the published
value. `python train.py --help` shows all keys with their meaning.
"""

config_dict = {
    'EXP_NAME': 'EPS_deeplabv2_resnet101',  # names every file of the run
    'MODEL_NAME': 'deeplabv2',
    'MODEL_BACKBONE': 'resnet101',
    # the devkit's VOC2012 folder; paths are relative to where python is started
    'DATA_ROOT': '../../../VOC2012',
    'DATA_PSEUDO_GT': '',  # folder of pseudo masks <name>.png: set this
    # an ImageNet resnet101 .pth (torchvision's, or a deep-stem one); False trains from scratch
    'MODEL_BACKBONE_PRETRAIN': False,
}
