"""The attacker of class `public`, who needs nothing secret: from a release's statistics to images.

`channel_statistics` and `guessing` find the layer and the channels, `consistency` asks the release
whether they are right, and `planted` has what pictures tell that the attacker planted in it;
`belief` is what comes of all that. `picture_views` and `made_pairs` make pairs without end, and
`public_attack` puts all together.
"""
