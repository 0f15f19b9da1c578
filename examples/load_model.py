"""A trained model in a notebook: load it, segment a picture, look at the probabilities.

    python examples/load_model.py models/dubai photo.jpg mask.png

Editors that know `# %%` (VS Code, PyCharm, Spyder, Jupytext) run the cells one by one.
"""

# %% A model folder, a checkpoint or an exported .safetensors file
import sys

import numpy as np
import torch
from PIL import Image

import d2ls

weights, picture, target = sys.argv[1:4]
model = d2ls.load_model(weights)
print(f"{len(model.classes)} classes: {', '.join(model.classes)}; bands: {', '.join(model.bands)}")

# %% Class indices of a picture of any size
image = np.asarray(Image.open(picture).convert("RGB"))
mask = d2ls.predict(model, image)  # uint8 (H, W)
for index, name in enumerate(model.classes):
    print(f"{name:20} {(mask == index).mean():7.2%}")

# %% The same by hand: normalise, run, softmax
mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.mean, model.std))
batch = ((torch.from_numpy(image.copy()).permute(2, 0, 1) - mean) / std)[None]
with torch.no_grad():
    probabilities = model(batch.to(next(model.parameters()).device)).softmax(dim=1)[0]  # (classes, H, W)
print(f"mean probability of the best class: {probabilities.amax(dim=0).mean():.3f}")

# %% A colour picture
Image.fromarray(np.array(model.colours, np.uint8)[mask]).save(target)
