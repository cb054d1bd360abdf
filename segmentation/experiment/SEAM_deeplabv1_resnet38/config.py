"""DeepLab v1 over ResNet-38 on pseudo masks of the SEAM baseline. Set DATA_PSEUDO_GT and
MODEL_BACKBONE_PRETRAIN."""

config_dict = {
    'EXP_NAME': 'SEAM_deeplabv1_resnet38',  # names every file of the run
    'DATA_NAME': 'VOCDataset',
    # the devkit's VOC2012 folder; paths are relative to where python is started
    'DATA_ROOT': '../../../VOC2012',
    'DATA_PSEUDO_GT': '',  # folder of pseudo masks <name>.png: set this
    # a list of ImageSets/Segmentation or voc12/, or a path ending in .txt
    'DATA_TRAIN_LIST': 'train_aug',
    'DATA_WORKERS': 4,  # processes that load pictures
    'DATA_MEAN': [0.485, 0.456, 0.406],  # not of timm's models: they bring their own
    'DATA_STD': [0.229, 0.224, 0.225],
    'DATA_RANDOMCROP': 448,  # pixels
    'DATA_RANDOMSCALE': [0.5, 1.5],
    'DATA_RANDOM_H': 10,  # ± degrees / 2
    'DATA_RANDOM_S': 10,  # ± of 255
    'DATA_RANDOM_V': 10,
    'DATA_RANDOMFLIP': 0.5,  # probability
    'MODEL_NAME': 'deeplabv1',  # deeplabv1, deeplabv2, deeplabv3 or deeplabv3plus
    # resnet38, resnet18, 34, 50, 101, 152, or an ImageNet model of timm
    'MODEL_BACKBONE': 'resnet38',
    # ilsvrc-cls_rna-a1_cls1000_ep-0001.params, or a checkpoint of stage 1; False trains from
    # scratch
    'MODEL_BACKBONE_PRETRAIN': False,
    'MODEL_BACKBONE_DILATED': True,  # False: output stride 32
    # ResNet stem of three 3x3 convolutions; read from the weights where there are any
    'MODEL_BACKBONE_DEEPBASE': True,
    'MODEL_BACKBONE_WIDTH': 1.0,  # of ResNet-38; read from the weights where there are any
    'MODEL_OUTPUT_STRIDE': 8,  # 8 or 16, where dilated
    # with the background; False: those of DATA_ROOT (its classes.txt, without one VOC's 21)
    'MODEL_NUM_CLASSES': False,
    'MODEL_ASPP_OUTDIM': 256,  # deeplabv2, v3, v3plus
    'MODEL_SHORTCUT_DIM': 48,  # deeplabv3plus
    # the backbone's BatchNorm in eval mode (always so in a pretrained ResNet-38)
    'MODEL_FREEZEBN': False,
    # initial weights of the classifier; False: kaiming. Take 0.01 for short runs
    'MODEL_CLS_STD': False,
    'MODEL_SAVE_DIR': 'model',
    'TRAIN_LR': 0.001,  # of the backbone; new layers take 10 times that
    'TRAIN_MOMENTUM': 0.9,
    'TRAIN_WEIGHT_DECAY': 0.0005,
    # new layers and ResNet-38; take 0.1 for runs of a few hundred iterations
    'TRAIN_BN_MOM': 0.0003,
    'TRAIN_POWER': 0.9,  # of the polynomial decay
    'TRAIN_BATCHES': 10,  # all processes together
    'TRAIN_ITERATION': 20000,
    'TRAIN_ACCUMULATE': 1,  # parts a process works on its share of a batch in, to save memory
    'TRAIN_AMP': 'off',  # bf16, fp16, auto: the network in 16 bits; off is float32, as published
    'TRAIN_CHANNELS_LAST': False,  # in float32 too: faster for narrow networks on a CPU
    'TRAIN_COMPILE': False,  # torch.compile: minutes to start, then faster steps
    # iterations between two checkpoints and training states; 0 for the last only
    'TRAIN_SAVE_ITERS': 5000,
    'TRAIN_TBLOG': True,  # TensorBoard: loss, and pictures with label and prediction
    'TRAIN_SEED': 0,  # decides every random choice
    'TEST_MULTISCALE': [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    'TEST_FLIP': True,
    'TEST_CRF': 'deeplab',  # dense CRF: deeplab, seam or none
    'TEST_CRF_BACKEND': 'numba',  # or pydensecrf, where it is installed; they differ by rounding
    'TEST_SAVE_DIR': 'result',
}
