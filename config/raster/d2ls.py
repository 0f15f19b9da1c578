"""Large rasters with labels: python train.py -c config/raster/d2ls.py data=scenes labels=fields.gpkg.

Beside the labels lies a table classes.csv; see docs/your_data.md.
"""

from pathlib import Path

from d2ls.data.sets.raster import LabelledRasters

base = "../small.py"

data = "data/raster"  # a GeoTIFF, or a folder of them
labels = "data/raster/labels.gpkg"  # polygons, a label raster, or a folder of label rasters
class_column = "class"
background = None  # class of pixels in no polygon; None: ignored
splits = None  # polygons with the column "split": train, val, test; None: blocks, of which val_share validate
val_share, block, gap, split_seed = 0.2, 512, 16, 0
warp = False  # True: labels in another CRS or on another grid are warped
image = {}  # image = dict(...) with the lines that tools/band_statistics.py prints
rasters = LabelledRasters(
    data, labels, class_column=class_column, background=background, splits=splits, val_share=val_share, block=block,
    gap=gap, split_seed=split_seed, warp=warp, image=image,
)  # fmt: skip
classes = rasters.spec.classes
num_classes = rasters.spec.num_classes
ignore_index = rasters.spec.ignore_index

max_epoch = 60
val_batch_size = 1
num_workers = 2
check_val_every_n_epoch = 5
weights_path = f"model_weights/{rasters.spec.name}/{weights_name}"
log_name = f"{rasters.spec.name}/{weights_name}"
in_channels = len(rasters.spec.bands)
net = DynamicDictionaryLearning(
    backbone, num_classes, in_channels=in_channels, stages=stages, width=width, pretrained=pretrained,
    dictionary=dictionary, num_entries=num_entries, head=head,
)  # fmt: skip

crop, scales = 256, (0.75, 1.0, 1.25)
train_dataset = rasters.train(crop=crop, scales=scales, smart_crop=0.9, rot90=0.5, flip=0.5)
val_dataset = rasters.val()
test_dataset = rasters.test()
