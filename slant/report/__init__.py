"""Pictures that let a person judge a segmentation."""
