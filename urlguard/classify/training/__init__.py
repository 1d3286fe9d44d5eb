"""
From labelled names and URLs to a model and its card.

Nothing here runs in a resolver; scikit-learn is needed (the ``train`` extra).  Data flows one way:

    rows → folds → fit (tables) → features → boost → calibrate → thresholds → card
"""
