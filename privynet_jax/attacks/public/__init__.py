"""The attacker of class `public`, who needs nothing secret: from a release's statistics to images.

`channel_statistics` and `guessing` find the layer and the channels, `picture_views` and
`made_pairs` make pairs without end, `consistency` asks the release whether the guess is right, and
`public_attack` puts them together. `substitute` guesses channels of a layer that it is told.
"""
