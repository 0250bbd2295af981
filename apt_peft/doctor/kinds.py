"""Every kind of thing that can be wrong with a backbone or with data for it: a table."""

from typing import NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)


class Kind(NamedTuple):
    """One row of the table."""

    severity: str
    what: str  # is wrong
    effect: str  # of leaving it
    remedy: str
    mended: bool = False  # whether `--fix` can do it


KINDS: dict[str, Kind] = {
    # ------------------------------------------------------------------------------------------------------ files
    "weights-missing": Kind(
        ERROR, "there is no weight file", "Nothing can be loaded.", "Copy the folder again, with its weights."
    ),
    "weights-damaged": Kind(
        ERROR, "a weight file is cut, damaged or not there", "Nothing can be loaded.", "Copy or download it again."
    ),
    "pickle-unsafe": Kind(
        ERROR,
        "the weights are a pickle that holds more than tensors",
        "Loading it would run code; nothing of it was run.",
        "Take a model with safetensors, or ask its maker for one.",
    ),
    "pickle-only": Kind(
        WARNING,
        "the weights are a pickle, without safetensors beside it",
        "Pickles can hold code, load slowly, and other programs refuse them.",
        "Store them as safetensors.",
        True,
    ),
    "licence-unknown": Kind(
        NOTE,
        "no model card names the licence",
        "It carries over to adapters; nobody can tell whether they may be used.",
        "Find it out, and write it into README.md (`license: ...` between two lines of `---`).",
    ),
    "licence-non-commercial": Kind(
        WARNING,
        "the licence forbids commercial use",
        "It carries over to adapters and to what is made with them.",
        "Take another backbone for commercial work.",
    ),
    # ----------------------------------------------------------------------------------------------------- config
    "config-refused": Kind(
        ERROR,
        "transformers cannot make a model of config.json",
        "Nothing can be loaded.",
        "Correct the value, or take config.json from where the model comes from.",
    ),
    "first-token-pooling": Kind(
        WARNING,
        "the config classifies from the first patch token (`use_mean_pooling: false`)",
        "One corner of the picture decides. `apt-peft train` asks for the mean by itself; your own code would not.",
        "Set `use_mean_pooling` to true, as the method and VideoMAE's fine-tuning have it.",
        True,
    ),
    "norm-eps": Kind(
        NOTE,
        "`layer_norm_eps` is not the 1e-6 that VideoMAE was trained with",
        "Next to nothing for transformers' 1e-12: features differ by about a millionth. One above 1e-5 blurs them.",
        "Set it to 1e-6.",
        True,
    ),
    "qv-bias-off": Kind(
        ERROR,
        "the config switches query and value biases off that the weights have",
        "They are left out, and every layer attends otherwise than it was trained to.",
        "Set `qv_bias` to true.",
        True,
    ),
    "frames-unused": Kind(
        WARNING,
        "`num_frames` is no multiple of the tubelet",
        "The last frames of every clip are read and never seen.",
        "Lower `num_frames` to the multiple below: the tokens stay the same.",
        True,
    ),
    "pixels-unused": Kind(
        WARNING,
        "the frame size is no multiple of the patch",
        "A margin of every frame is read and never seen.",
        "Lower the size to the multiple below: the tokens stay the same.",
        True,
    ),
    "frames-not-square": Kind(
        ERROR,
        "the backbone takes frames that are not square",
        "`apt-peft` makes square clips, which it refuses.",
        "Take a backbone for square frames.",
    ),
    "patch-kernel": Kind(
        ERROR,
        "patch or tubelet size of the config differ from the stored patch kernel",
        "The patch embedding is drawn anew: nothing that was learned reaches the encoder.",
        "Set them to the kernel's sizes.",
        True,
    ),
    "position-table": Kind(
        ERROR,
        "the stored position table has another length than frames and size of the config give",
        "It is drawn anew: the model no longer knows where and when a patch is.",
        "Set frames and size to those that the table was made for, or take a backbone made for yours.",
    ),
    "layer-count": Kind(
        ERROR,
        "the config has fewer or more layers than the weights",
        "Layers are dropped, or drawn anew.",
        "Set `num_hidden_layers` to the number of stored layers.",
        True,
    ),
    "attention-eager": Kind(
        NOTE,
        "the config asks for eager attention",
        "The same numbers, several times slower and with more memory.",
        "Delete the key: transformers then takes sdpa.",
        True,
    ),
    "attention-unavailable": Kind(
        ERROR,
        "the config asks for an attention that cannot be used here",
        "Loading fails.",
        "Delete the key: transformers then takes sdpa; or install what it needs.",
        True,
    ),
    "half-precision": Kind(
        NOTE,
        "loaded without a dtype, the model computes in half precision",
        "`apt-peft` loads float32 by itself; your own code trains in half precision, where small steps are lost.",
        "Pass `dtype=torch.float32` to `from_pretrained`, or set `dtype` to float32 in config.json.",
        True,
    ),
    "no-preprocessor": Kind(
        NOTE,
        "no preprocessor_config.json says which pixels the backbone wants",
        "`apt-peft` takes ImageNet's mean and std, transformers' processors 0.5: wrong pixels cost accuracy silently.",
        "Find the values out and store them, or pass `--mean` and `--std`.",
    ),
    "normalization": Kind(
        WARNING,
        "mean and std are not those of this family",
        "Every pixel is shifted and scaled otherwise than in pre-training, which costs accuracy silently.",
        "Set ImageNet's mean and std, which these checkpoints were trained with.",
        True,
    ),
    "normalization-off": Kind(
        WARNING,
        "the preprocessor switches normalisation off and states a mean and a std",
        "`apt-peft` normalises by them all the same; transformers' processors do not.",
        "State mean 0 and std 1, which is what switching it off means.",
        True,
    ),
    "normalization-unusable": Kind(
        ERROR,
        "mean and std cannot be those of pixels in 0..1",
        "Clips become garbage, or the run stops.",
        "State one number for each colour channel in 0..1, with every std above 0.",
        True,
    ),
    "preprocessor-size": Kind(
        WARNING,
        "the preprocessor makes frames of another size than the config",
        "transformers' processors and pipelines make clips that the model refuses; `apt-peft` follows the config.",
        "Set the preprocessor's sizes to the config's.",
        True,
    ),
    # ---------------------------------------------------------------------------------------------------- weights
    "tensors-missing": Kind(
        ERROR,
        "weights of the encoder are missing",
        "They are drawn anew: `apt-peft train` refuses the backbone.",
        "Copy it again, or convert it from the original file with `apt-peft convert`.",
    ),
    "tensors-left-over": Kind(
        WARNING,
        "weights have no place in the model",
        "They are dropped: config and weights may be of two models.",
        "Take config.json from where the weights come from.",
    ),
    "shapes-disagree": Kind(
        ERROR,
        "weights have other shapes than the config gives",
        "They are drawn anew: `apt-peft train` refuses the backbone.",
        "Take config.json from where the weights come from.",
    ),
    "qv-bias-lost": Kind(
        ERROR,
        "query and value biases are zero or not stored",
        "VideoMAE trains with them: a conversion lost them, and every layer attends otherwise.",
        "Convert the original file with `apt-peft convert`; with transformers older than 5.18, load anew.",
    ),
    "key-bias": Kind(
        NOTE,
        "key biases are stored that are not zero",
        "VideoMAE has none and transformers drops them. Attention over the tokens is the same without: a softmax takes "
        "no notice of what all its scores share.",
        "Leave them out of the file.",
        True,
    ),
    "untrained": Kind(
        ERROR,
        "layers are as they are drawn: norms all one, biases all zero",
        "There is nothing in them that prompts could use.",
        "Take a pre-trained backbone; a saved model that lacked weights stored drawn ones in their place.",
    ),
    "not-finite": Kind(
        ERROR,
        "weights are NaN or infinite",
        "Every score is NaN.",
        "Copy it again, or take an earlier checkpoint.",
    ),
    "zeros": Kind(
        ERROR,
        "weight matrices or norms are all zero",
        "Their layers pass nothing on.",
        "Copy it again, or convert it anew.",
    ),
    "layers-duplicated": Kind(
        ERROR,
        "layers have equal weights",
        "Layers were overwritten by others in a conversion or a merge.",
        "Convert the original file anew.",
    ),
    "head-present": Kind(
        NOTE,
        "the backbone was fine-tuned to labels already",
        "Training replaces its classifier and keeps its norm. Scores do not compare with those from pre-training alone.",
        "Say so where you report scores.",
    ),
    "head-shape": Kind(
        WARNING,
        "config and stored classifier have different numbers of labels",
        "The stored classifier is dropped, and predictions are by a random one until it is trained.",
        "Take config.json from where the weights come from.",
    ),
    "fc-norm-missing": Kind(
        WARNING,
        "there is a classifier without the norm before it",
        "A new norm stands before a trained classifier, which was trained on other features.",
        "Take a checkpoint with `fc_norm`, or train the head anew, as `apt-peft train` does.",
    ),
    # --------------------------------------------------------------------------------------------------- features
    "features-not-finite": Kind(
        ERROR,
        "features are NaN or infinite though the weights are not",
        "Every score is NaN.",
        "Look for weights of enormous size; load in float32.",
    ),
    "features-collapsed": Kind(
        ERROR,
        "features hardly depend on the clip, or in a single direction only",
        "There is nothing that a head or prompts could tell classes by.",
        "Take another backbone; look at how this one was trained and converted.",
    ),
    # ------------------------------------------------------------------------------------------------------- data
    "videos-unreadable": Kind(
        ERROR,
        "videos cannot be read",
        "Training stops before the first step, unless told to skip them.",
        "Run `apt-peft check` on the data: it names them all.",
    ),
    "videos-short": Kind(
        WARNING,
        "videos have fewer frames than a clip",
        "Their clips repeat frames, so motion stutters or stands still.",
        "Take a backbone for fewer frames, or expect less of classes that differ by motion.",
    ),
    "frames-far-apart": Kind(
        NOTE,
        "frames of a clip lie more than a second apart",
        "Sampled evenly over a whole video, fast motion falls between two frames.",
        "Cut the videos, or take `--sampling dense` and several `--segments`.",
    ),
    "frame-rates-mixed": Kind(
        NOTE,
        "frame rates differ by more than half",
        "With dense sampling, equal motion looks fast in one video and slow in another.",
        "Take even sampling, or convert the videos to one rate.",
    ),
    "videos-small": Kind(
        NOTE,
        "videos are smaller than the frames that the backbone takes",
        "They are enlarged: sharper detail than they have is not to be had.",
        "Nothing, or take larger originals.",
    ),
    "head-knows-labels": Kind(
        WARNING,
        "the backbone's own head has the labels of the data",
        "It may have been trained on these very clips, test clips among them, and scores flatter.",
        "Find out what it was trained on; take a backbone from pre-training alone for honest scores.",
    ),
    "probe-at-chance": Kind(
        WARNING,
        "a closed-form probe on a few clips is no better than chance",
        "Rough evidence that the backbone sees little of what tells the classes apart.",
        "Look at preprocessing and labels; try another backbone before a long run.",
    ),
    # ---------------------------------------------------------------------------------------------------- adapter
    "adapter-unfit": Kind(
        ERROR,
        "the adapter's tensors do not fit the backbone",
        "It cannot be loaded.",
        "Give the backbone that it was trained on by `--base`, or copy the adapter again.",
    ),
    "adapter-other-base": Kind(
        ERROR,
        "the adapter was trained on other weights than these",
        "Its prompts mean nothing to this backbone.",
        "Give the backbone that it was trained on by `--base`.",
    ),
}
