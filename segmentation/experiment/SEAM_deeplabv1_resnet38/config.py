"""DeepLab v1 over ResNet-38 on pseudo masks of the SEAM baseline. Set DATA_PSEUDO_GT and
MODEL_BACKBONE_PRETRAIN.

A key that is not given here has the default of segmentation/lib/utils/keys.py, the published
value. `python train.py --help` shows all keys with their meaning.
"""

config_dict = {
    'EXP_NAME': 'SEAM_deeplabv1_resnet38',  # names every file of the run
    'MODEL_NAME': 'deeplabv1',
    'MODEL_BACKBONE': 'resnet38',
    # the devkit's VOC2012 folder; paths are relative to where python is started
    'DATA_ROOT': '../../../VOC2012',
    'DATA_PSEUDO_GT': '',  # folder of pseudo masks <name>.png: set this
    # ilsvrc-cls_rna-a1_cls1000_ep-0001.params, or a checkpoint of stage 1; False trains from
    # scratch
    'MODEL_BACKBONE_PRETRAIN': False,
}
