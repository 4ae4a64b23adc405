"""The memory wall: the claims of "AI and Memory Wall" (Gholami et al., IEEE Micro 44(3), 2024), computed exactly where
they are arithmetic and predicted from measured roofs where they are a machine's doing. Pure: records in, answers
out."""
