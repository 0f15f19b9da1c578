"""Networks of segmentation_models.pytorch under our recipe."""

import pytest
import torch

from d2ls.errors import ConfigError
from d2ls.models.peers import SMPNetwork

smp = pytest.importorskip("segmentation_models_pytorch")


@pytest.mark.parametrize("decoder", ["Unet", "FPN", "Segformer", "UPerNet", "DeepLabV3Plus"])
def test_any_size_in_and_out_with_the_librarys_own_logits(decoder: str) -> None:
    torch.manual_seed(0)
    net = SMPNetwork(decoder, "test_resnet", 5).eval()
    own = getattr(smp, decoder)("tu-test_resnet", encoder_weights=None, classes=5).eval()
    own.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert net(torch.randn(2, 3, 70, 45)).shape == (2, 5, 70, 45)
        image = torch.randn(1, 3, 64, 96)
        torch.testing.assert_close(net(image), own(image))


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"Unets.*DeepLabV3Plus.*Unet"):
        SMPNetwork("Unets", "test_resnet", 5)
    with pytest.raises(ConfigError, match="no_such_net"):
        SMPNetwork("Unet", "no_such_net", 5)
