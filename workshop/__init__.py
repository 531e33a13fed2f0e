"""What makes models and judges them, apart from what runs them: no replica needs it once its weights are there.

`variants` turns the files of a source into files to serve. `evaluation` says whether those answer as the reference
does. `starter` has the recipes of the models that were trained here. `models` imports nothing of this package: the
catalog names its makers as `module:function`, and `models.weights` names the module of the judge.
"""
