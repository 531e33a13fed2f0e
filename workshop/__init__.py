"""Makes variants of models and judges them. No replica needs this package once its weights are on its machine.

`variants` turns the files of a source into files to serve. `evaluation` tests whether they answer like the reference.
`starter` has the recipes of the models that were trained here. `models` imports nothing from this package: the catalog
names makers as `module:function`, and `models.weights` names the judge's module.
"""
