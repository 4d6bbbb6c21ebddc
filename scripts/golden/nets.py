"""The networks of the specification (section 6.2) in plain PyTorch.

Keys, registration order and the order of random draws at construction are those of the files people have:
torchvision's for `resnet*` and `l2ul-resnet18`, weiaicunzai/pytorch-cifar100's for `cifar-resnet*`,
akamaster/pytorch_resnet_cifar10's for `resnet20` and `resnet56`, xternalz/WideResNet-pytorch's for `wrn-28-10`,
AdityaGolatkar/SelectiveForgetting's for `allcnn`. No convolution has a bias; BatchNorm: eps 1e-5, momentum 0.1.
All others are torchvision's own.
"""

import math
from functools import partial

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv(cin, cout, kernel, stride=1):
    return nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)


class Classifier(nn.Module):
    """`net` behind a parameter-free normalisation, so that inputs are pixels in [0,1]. State-dict keys are `net`'s."""

    def __init__(self, net, mean=None, std=None):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean or ()).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or ()).view(1, -1, 1, 1), persistent=False)

    def forward(self, x):
        if self.mean.numel():
            x = (x - self.mean) / self.std
        return self.net(x)


class Tiny(nn.Module):
    """Net (i) of section 11: conv 3→8, BN, ReLU, global pool, linear → classes. Running statistics are not trivial."""

    def __init__(self, classes=5):
        super().__init__()
        self.conv = conv(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)
        with torch.no_grad():
            self.bn.weight.uniform_(0.5, 1.5)
            self.bn.bias.uniform_(-0.2, 0.2)
            self.bn.running_mean.uniform_(-0.3, 0.3)
            self.bn.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean(dim=(2, 3)))


# torchvision's residual networks; `stem=3` is architecture A.


class Basic(nn.Module):
    expansion = 1

    def __init__(self, cin, width, stride, downsample):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin, width, stride, downsample):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, block, depths, classes, stem):
        super().__init__()
        self.conv1 = conv(3, 64, 3) if stem == 3 else conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for i, depth in enumerate(depths):
            blocks, width = [], 64 << i
            for b in range(depth):
                stride, downsample = (2 if i > 0 and b == 0 else 1), None
                if stride != 1 or cin != width * block.expansion:
                    downsample = nn.Sequential(
                        conv(cin, width * block.expansion, 1, stride), nn.BatchNorm2d(width * block.expansion)
                    )
                blocks.append(block(cin, width, stride, downsample))
                cin = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(cin, classes)
        for m in self.modules():  # the head keeps PyTorch's default initialisation
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


# Architecture B: no max-pool, its own keys, PyTorch's default initialisation.


class CifarBlock(nn.Module):
    def __init__(self, cin, width, stride, bottleneck):
        super().__init__()
        out = width * (4 if bottleneck else 1)
        if bottleneck:
            layers = [conv(cin, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [conv(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [conv(width, out, 1), nn.BatchNorm2d(out)]
        else:
            layers = [conv(cin, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [conv(width, width, 3), nn.BatchNorm2d(width)]
        self.residual_function = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != out:
            self.shortcut = nn.Sequential(conv(cin, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        return F.relu(self.residual_function(x) + self.shortcut(x))


class CifarResNet(nn.Module):
    def __init__(self, depths, bottleneck, classes):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
        cin = 64
        for i, depth in enumerate(depths):
            blocks, width = [], 64 << i
            for b in range(depth):
                blocks.append(CifarBlock(cin, width, 2 if i > 0 and b == 0 else 1, bottleneck))
                cin = width * (4 if bottleneck else 1)
            setattr(self, f"conv{i + 2}_x", nn.Sequential(*blocks))
        self.fc = nn.Linear(cin, classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in (self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x):
            x = stage(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


# He et al. (2016), section 4.2: three stages of 16, 32, 64 channels, parameter-free shortcuts (option A).


class PlainBlock(nn.Module):
    def __init__(self, cin, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.widen = (width - cin) // 2 if stride != 1 else 0

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.widen:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.widen, self.widen))
        return F.relu(y + x)


class SmallResNet(nn.Module):
    def __init__(self, depth, classes):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        cin = 16
        for i, width in enumerate((16, 32, 64)):
            blocks = []
            for b in range(depth):
                blocks.append(PlainBlock(cin, width, 2 if i > 0 and b == 0 else 1))
                cin = width
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes)
        for m in self.modules():  # fan_in; the head's bias keeps PyTorch's default
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return self.linear(x.mean(dim=(2, 3)))


# Zagoruyko and Komodakis (2016): normalisation and ReLU before each convolution.


class WideBlock(nn.Module):
    def __init__(self, cin, width, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.convShortcut = None if cin == width else conv(cin, width, 1, stride)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    def __init__(self, depth, widen, classes):
        super().__init__()
        self.conv1, cin = conv(3, 16, 3), 16
        for i in range(3):
            blocks, width = [], widen * 16 << i
            for b in range((depth - 4) // 6):
                blocks.append(WideBlock(cin, width, 2 if i > 0 and b == 0 else 1))
                cin = width
            block = nn.Module()
            block.layer = nn.Sequential(*blocks)
            setattr(self, f"block{i + 1}", block)
        self.bn1, self.fc = nn.BatchNorm2d(cin), nn.Linear(cin, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, 0, math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
            elif isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)

    def forward(self, x):
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1), 1))


class AllCNN(nn.Module):
    """Springenberg et al. (2015), section 3, with batch normalisation and a linear layer behind the pooling."""

    def __init__(self, classes):
        super().__init__()

        def layer(cin, cout, kernel=3, stride=1):
            return nn.Sequential(conv(cin, cout, kernel, stride), nn.BatchNorm2d(cout), nn.ReLU())

        self.features = nn.Sequential(
            layer(3, 96), layer(96, 96), layer(96, 192, 3, 2), nn.Identity(),
            layer(192, 192), layer(192, 192), layer(192, 192, 3, 2), nn.Identity(),
            layer(192, 192), layer(192, 192, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(192, classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def vision(name):
    return lambda c: getattr(torchvision.models, name)(num_classes=c)


# name: (constructor of (classes), classes, input size, mean, std)
NETWORKS = {
    "resnet18": (lambda c: ResNet(Basic, (2, 2, 2, 2), c, 7), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "resnet34": (lambda c: ResNet(Basic, (3, 4, 6, 3), c, 7), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "resnet50": (lambda c: ResNet(Bottleneck, (3, 4, 6, 3), c, 7), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "l2ul-resnet18": (lambda c: ResNet(Basic, (2, 2, 2, 2), c, 3), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
    "cifar-resnet18": (lambda c: CifarResNet((2, 2, 2, 2), False, c), 100, 32, CIFAR100_MEAN, CIFAR100_STD),
    "cifar-resnet50": (lambda c: CifarResNet((3, 4, 6, 3), True, c), 100, 32, CIFAR100_MEAN, CIFAR100_STD),
    "resnet20": (lambda c: SmallResNet(3, c), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
    "resnet56": (lambda c: SmallResNet(9, c), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
    "wrn-28-10": (lambda c: WideResNet(28, 10, c), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
    "allcnn": (AllCNN, 10, 32, CIFAR10_MEAN, CIFAR10_STD),
}
for _name in (
    "resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn "
    "mobilenet_v2 squeezenet1_0 squeezenet1_1 densenet121 vit_b_16 vit_b_32 vit_l_16 vit_l_32 swin_t swin_s swin_b "
    "convnext_tiny convnext_small convnext_base"
).split():
    NETWORKS[_name] = (vision(_name), 1000, 224, IMAGENET_MEAN, IMAGENET_STD)


def transformer(patch, heads, width, size=224, eps=1e-6):
    """torchvision's vision transformer of a depth and width that torchvision does not name: timm's and DeiT's Ti, S and B."""
    norm = partial(nn.LayerNorm, eps=eps)
    return lambda c: torchvision.models.VisionTransformer(size, patch, 12, heads, width, 4 * width, num_classes=c, norm_layer=norm)


_HALF = (0.5, 0.5, 0.5)
NETWORKS |= {
    "vit_ti_16": (transformer(16, 3, 192), 1000, 224, _HALF, _HALF),
    "vit_s_16": (transformer(16, 6, 384), 1000, 224, _HALF, _HALF),
    "vit_s_32": (transformer(32, 6, 384), 1000, 224, _HALF, _HALF),
    "hf-vit_b_16": (transformer(16, 12, 768, eps=1e-12), 1000, 224, _HALF, _HALF),
    "deit_ti_16": (transformer(16, 3, 192), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "deit_s_16": (transformer(16, 6, 384), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "deit_b_16": (transformer(16, 12, 768), 1000, 224, IMAGENET_MEAN, IMAGENET_STD),
    "cifar-vit-ti": (transformer(4, 3, 192, 32), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
    "cifar-vit-s": (transformer(4, 6, 384, 32), 10, 32, CIFAR10_MEAN, CIFAR10_STD),
}


def new(name, classes=None):
    """The named network with freshly drawn weights (from torch's default generator) behind its normalisation."""
    make, default, _, mean, std = NETWORKS[name]
    return Classifier(make(classes or default), mean, std)
