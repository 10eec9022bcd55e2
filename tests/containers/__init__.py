"""The compose file and the images as users have them: real containers, three replicas, one published port."""
