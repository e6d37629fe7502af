"""From files to batches: pairs and their readers, captions, images, the ledger of what could not be used, and loading.

``pairs`` finds out how a data set is laid out and reads it by way of ``skyscript`` or ``imagefolder``; neither opens an
image. ``images`` is the one place that decodes one. Whatever is left out, row or image, has its line in ``rejects``.
"""
